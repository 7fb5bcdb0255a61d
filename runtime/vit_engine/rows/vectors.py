"""Vectors in files: a column of Parquet, or NumPy's .npy with the rows beside it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import UsageError
from vit_engine.outputs.embeddings import Embeddings, unpacked

if TYPE_CHECKING:
    import pyarrow as pa

VectorType = Literal["float32", "float16"]
"""What the numbers of vectors are stored as; rows on the way there have float32."""

COLUMN = "embedding"
"""The column of the vectors."""

ROWS_BESIDE = ".parquet"
"""What is appended to the name of an .npy of N vectors for its rows, as Parquet.

The first N are those of the vectors, in order; the rows of images without a vector follow.
"""

NPY_MAGIC = b"\x93NUMPY"


def with_vectors(
    schema: "pa.Schema", output: Embeddings, dtype: VectorType, model: str
) -> "pa.Schema":
    """Return the columns of rows with vectors of a fixed size, and what they are as metadata."""
    import pyarrow as pa

    number = {"float32": pa.float32(), "float16": pa.float16()}[dtype]
    about = {
        "model": model,
        "space": output.space,
        "pooling": output.pooling,
        "normalized": output.normalized,
    }
    place = schema.get_field_index(COLUMN)
    return schema.set(place, pa.field(COLUMN, pa.list_(number, output.size))).with_metadata(
        {"vit_engine": json.dumps(about)}
    )


def arrow_table(rows: Sequence[dict[str, Any]], schema: "pa.Schema") -> "pa.Table":
    """Return packed rows as a table; UsageError for a number that its type cannot hold."""
    import pyarrow as pa

    place = schema.get_field_index(COLUMN)
    if place < 0:
        return pa.Table.from_pylist(rows, schema)
    field = schema.field(place)
    dtype = np.dtype(field.type.value_type.to_pandas_dtype())
    packed = [row[COLUMN] for row in rows]
    numbers = np.zeros((len(rows), field.type.list_size), dtype)
    for i, vector in enumerate(packed):
        if vector is not None:
            numbers[i] = _stored(unpacked(vector), dtype)
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(numbers.ravel()), type=field.type, mask=pa.array([v is None for v in packed])
    )
    table = pa.Table.from_pylist([{**row, COLUMN: None} for row in rows], schema)
    return table.set_column(place, field, vectors)


def write_npy(path: Path, vectors: Iterable[str], shape: tuple[int, int], dtype: str) -> None:
    """Write packed vectors as an array (N, size); UsageError as from `arrow_table`."""
    stored = np.dtype(dtype).newbyteorder("<")
    header = {"descr": stored.str, "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for vector in vectors:
            file.write(_stored(unpacked(vector), stored).tobytes())


def _stored(vector: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        stored = vector.astype(dtype)
    if not np.isfinite(stored).all():
        raise UsageError(
            f"a vector has {np.abs(vector).max():g} in it, more than {dtype.name} can hold; use "
            "--vectors float32"
        )
    return stored
