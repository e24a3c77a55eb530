"""The bytes of images on their way: in (hashed, inspected, stored) and out (ranges, any format)."""
