"""A torch module becomes a file, and the file proves that it computes what the module computes.

Nothing here knows of pruning or of devices. Formats are in one dict that can be read; heavy libraries are imported
inside the functions. (The name is also an import name of another project, huggingface/exporters: do not install both
into one environment.)
"""

from exporters.onnx_export import export_onnx
from exporters.tflite_export import export_tflite

EXPORTERS = {"onnx": export_onnx, "tflite": export_tflite}

__all__ = ["EXPORTERS", "export_onnx", "export_tflite"]
