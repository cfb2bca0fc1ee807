import numpy as np
from numpy.typing import NDArray

def map_chunks(
    folder: int, paths: list[bytes], chunk_bytes: int, file_bytes: int
) -> NDArray[np.uint8]: ...
