"""Durations and sizes as users write them, by the name the upper floors know: state/units.py has them."""

from __future__ import annotations

from ..state.units import format_duration, format_size, parse_duration_ms, parse_size_bytes

__all__ = ["format_duration", "format_size", "parse_duration_ms", "parse_size_bytes"]
