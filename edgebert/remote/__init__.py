"""Devices: this machine, one behind ssh, one behind adb. All are used the same way: a private folder for the time of a
`with` block, files in, programs run, files out."""

from edgebert.remote.processes import Done
from edgebert.remote.timing import bench_on, sweep_on
from edgebert.remote.workspace import Device, Place, open_device

__all__ = ["Device", "Done", "Place", "bench_on", "open_device", "sweep_on"]
