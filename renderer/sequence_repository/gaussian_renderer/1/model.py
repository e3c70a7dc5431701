"""What Triton loads. The stub's Python ignores PYTHONPATH, so an uninstalled checkout is found from this file."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("renderer") is None:
    sys.path.append(str(Path(__file__).resolve().parents[4]))

from renderer.model import TritonPythonModel as TritonPythonModel
