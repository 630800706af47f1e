"""Formats: Json, Csv, Parquet, Text, Raw."""

from .base import MalformedRecord as MalformedRecord
from .csv import Csv as Csv
from .json import Json as Json
from .parquet import Parquet as Parquet
from .text import Raw as Raw
from .text import Text as Text
