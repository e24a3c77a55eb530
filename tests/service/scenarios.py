"""All scenarios: importing this registers them in `compare.SCENARIOS`."""

import scenarios_admin
import scenarios_data
import scenarios_images
import scenarios_lists
import scenarios_metadefs
from compare import ALONE, SCENARIOS

__all__ = ["ALONE", "MODULES", "SCENARIOS"]

MODULES = (scenarios_admin, scenarios_data, scenarios_images, scenarios_lists, scenarios_metadefs)
