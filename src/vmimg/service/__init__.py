"""The image service: the OpenStack Image API over a core that knows formats.

    settings     what vmimg.toml and the environment say
    stores/      where the bytes of images lie
    catalogue/   the database: what is known of each image
    identity/    who asks
    policy       what whom is allowed
    data/        uploads that are hashed and looked into as they stream; downloads, in any format
    tasks/       work in the background that survives a restart
    http/        what all requests share: operations, errors, limits, logs, metrics
    api/         one module for each resource of the API
    application  puts them together; server runs it

Needs the extra ``service``. The API is the one that Glance's reference describes:
https://docs.openstack.org/api-ref/image/v2/. Imports everything below; of the faces only the
command knows it.
"""
