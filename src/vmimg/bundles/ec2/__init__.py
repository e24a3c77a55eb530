"""EC2 instance-store bundles: an image in a tar.gz, encrypted, cut into parts, with a manifest.

    image.manifest.xml     what it is; the key and IV, for the user and for EC2; digests, signature
    image.part.00 ...      tar of the image, gzip, AES-128-CBC, in parts of 10 MiB

The key and the IV stand in the manifest as hexadecimal text, encrypted with RSA (PKCS #1 v1.5). The
signature is over the text of the elements machine_configuration and image. The image's digest is
that of the tar. Sources: the EC2 AMI tools 1.5 (lib/ec2/amitools/bundle.rb, manifestv20071010.rb,
xmlutil.rb); euca2ools 3 (euca2ools/bundle). Imports machines, archives and below.
"""

from __future__ import annotations

from vmimg.bundles.ec2.making import make
from vmimg.bundles.ec2.reading import Ec2Bundle, open

__all__ = ["Ec2Bundle", "make", "open"]
