"""The main job: from data to one page that says what structure they have."""

from pplvae.report.build import Report, build

__all__ = ["Report", "build"]
