"""Python reads this on its own: the native module comes from where SANITIZED_NATIVE says."""

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location

NAME = "sharkstore.kernels._native"


class Sanitized:
    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        if name != NAME:
            return None
        return spec_from_file_location(NAME, os.environ["SANITIZED_NATIVE"])


sys.meta_path.insert(0, Sanitized)
