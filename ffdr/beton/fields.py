"""The fields of ffdr's betons as FFCV knows them, so that its own Loader can open the files.

Image betons have none but stock fields, unless they hold coefficient images. Any other beton needs
``custom_fields=CUSTOM_FIELDS``; arrays of a reinforcement then come as raw bytes, since torch has no structured dtypes,
unless a decoder of ``ffdr.ffcv`` makes views and targets of them.
"""

from __future__ import annotations

import ffdr.util.lean_ffcv  # noqa: F401

# isort: split
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import numpy as np
from ffcv.fields.base import ARG_TYPE, Field
from ffcv.fields.rgb_image import RGBImageField
from ffcv.libffcv import memcpy
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State

from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.layout import CODING_MAGIC
from ffdr.beton.read import ImageBeton
from ffdr.util.errors import UserError


class BlockDecoder(Operation):
    """Hands out the stored bytes of a sample, (bytes,) uint8: the same number for every sample."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """One row of bytes per sample."""
        shape, dtype = (self.field.block_bytes,), np.dtype("<u1")
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable:
        """Copy from FFCV's memory into the batch."""
        read = self.memory_read
        copy = Compiler.compile(memcpy)
        parallel_range = Compiler.get_iterator()

        def decode(indices: np.ndarray, out: np.ndarray, metadata: np.ndarray, storage: tuple) -> np.ndarray:
            for i in parallel_range(len(indices)):
                copy(read(metadata[indices[i]], storage), out[i])
            return out[: len(indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]  # FFCV looks for it at the function
        return decode


def _binary(arguments: bytes) -> np.ndarray:
    return np.frombuffer(arguments.ljust(1024, b"\0"), ARG_TYPE)[0]


class _BlockField(Field):
    """A fixed number of bytes per sample, which the header determines."""

    def __init__(self, header: ReinforcedHeader) -> None:
        self.header = header

    @property
    @abstractmethod
    def block_bytes(self) -> int:
        """Bytes per sample."""

    @property
    def metadata_type(self) -> np.dtype:
        """One pointer."""
        return np.dtype("<u8")

    @classmethod
    def from_binary(cls, binary: np.ndarray) -> _BlockField:
        """The field that a descriptor's (1024,) uint8 arguments describe."""
        return cls(ReinforcedHeader.unpack(binary.tobytes()))

    def to_binary(self) -> np.ndarray:
        """The arguments of the descriptor, ``ARG_TYPE``."""
        return _binary(self.header.pack())

    def encode(self, destination: np.ndarray, value: np.ndarray, malloc: Callable) -> None:
        """Store the bytes of one sample (any array of ``block_bytes`` bytes)."""
        data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        if len(data) != self.block_bytes:
            raise ValueError(f"{len(data)} bytes, not {self.block_bytes}")
        destination[0], storage = malloc(self.block_bytes)
        storage[:] = data

    def get_decoder_class(self) -> type[Operation]:
        """FFCV's default for this field."""
        return BlockDecoder


class AugParamsField(_BlockField):
    """K view records per sample."""

    @property
    def block_bytes(self) -> int:
        """K × 24, 56, 62 or 126."""
        return self.header.view_bytes


class LogitsField(_BlockField):
    """K × (T uint16 class ids, T float16 log-probabilities) per sample."""

    @property
    def block_bytes(self) -> int:
        """K × T × 4."""
        return self.header.logit_bytes


FIELDS: dict[str, type[Field]] = {"aug_params": AugParamsField, "logits": LogitsField}
"""By the name that the field has in a file."""


class NoDecoder(Operation):
    """Stands for the decoder that FFCV does not have: refuses to be built into a pipeline."""

    def declare_state_and_memory(self, previous_state: State) -> NoReturn:
        """Raise UserError."""
        raise UserError(
            "image: FFCV's Loader can't decode coefficient images; ffdr's loaders do, and ffdr transcode makes JPEGs"
        )

    def generate_code(self) -> NoReturn:
        """Raise as above; never reached."""
        self.declare_state_and_memory(State(False, None, (), np.dtype("u1")))


class CoefficientImageField(Field):
    """Images of which some are stored as coefficients, which FFCV can find but not decode.

    Width and height have other names than in FFCV's own images, so that its decoders stop at once when they are asked
    for; as pixels or as a JPEG they would hand out garbage.
    """

    def __init__(self, arguments: bytes) -> None:
        self.arguments = arguments

    @property
    def metadata_type(self) -> np.dtype:
        """``IMAGE_DTYPE`` but for two names."""
        kinds = {"mode": "<u1", "packed_width": "<u2", "packed_height": "<u2", "data_ptr": "<u8"}
        return np.dtype(list(kinds.items()))

    @classmethod
    def from_binary(cls, binary: np.ndarray) -> CoefficientImageField:
        """The field that a descriptor's (1024,) uint8 arguments describe."""
        arguments = binary.tobytes()
        if not arguments.startswith(CODING_MAGIC):
            raise UserError("image: was not written by ffdr")
        return cls(arguments)

    def to_binary(self) -> np.ndarray:
        """The arguments of the descriptor, ``ARG_TYPE``."""
        return _binary(self.arguments)

    def encode(self, destination: np.ndarray, value: np.ndarray, malloc: Callable) -> NoReturn:
        """FFCV's writer has no place for the coding that all images share."""
        raise UserError("image: coefficient images are written by ffdr write or ffdr transcode, not by FFCV")

    def get_decoder_class(self) -> type[Operation]:
        """A class that refuses to decode."""
        return NoDecoder


class AnyImageField(CoefficientImageField):
    """The field ``image`` of any beton: FFCV's own, unless some images are stored as coefficients."""

    @classmethod
    def from_binary(cls, binary: np.ndarray) -> Field:
        """The field that a descriptor's (1024,) uint8 arguments describe."""
        has_coding = binary.tobytes().startswith(CODING_MAGIC)
        return CoefficientImageField.from_binary(binary) if has_coding else RGBImageField()


CUSTOM_FIELDS: dict[str, type[Field]] = {"image": AnyImageField, **FIELDS}
"""What FFCV's Loader may be given as its ``custom_fields`` to open whatever file of ffdr."""


def custom_fields(images: ImageBeton) -> dict[str, type[Field]]:
    """Field classes that FFCV's Loader must be given to open this file, as its ``custom_fields``."""
    fields = {name: FIELDS[name] for name in images.field_names if name in FIELDS}
    return fields if images.coding is None else {"image": CoefficientImageField, **fields}
