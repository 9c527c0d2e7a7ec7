"""What leaves the library: a trained net in the forms that are deployed, each computing what the model computed."""

from .packed_file import Packed, PackedLayer, packed

__all__ = ["Packed", "PackedLayer", "packed"]
