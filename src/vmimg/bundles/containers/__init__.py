"""Container images: OCI layouts and Docker's archives, and the disks of KubeVirt that are in some.

`oci` and `docker` open and make one kind each; `image` is what both are made of, `layers` looks for
disks in them, `making` writes. A containerDisk is an image with one file below /disk, an image of a
disk in qcow2 or raw, for user 107 (qemu). Sources: OCI image specification 1.1; Docker's image
specification 1.3 (spec.md, "Combined Image JSON + Filesystem Changeset Format"); KubeVirt's user
guide, "containerDisk". Imports archives and below.
"""
