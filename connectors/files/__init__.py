"""Files as a source of splits and as an exactly-once sink."""

from .sink import FileSink as FileSink
from .source import FileSource as FileSource
