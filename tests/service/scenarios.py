"""All scenarios: importing this registers them in `compare.SCENARIOS`."""

import scenarios_admin
import scenarios_data
import scenarios_images
import scenarios_lists
import scenarios_locations
import scenarios_metadefs
import scenarios_requests
from compare import ALONE, SCENARIOS, VISIBLE

__all__ = ["ALONE", "MODULES", "SCENARIOS", "VISIBLE"]

MODULES = (
    scenarios_admin, scenarios_data, scenarios_images, scenarios_lists, scenarios_locations,
    scenarios_metadefs, scenarios_requests,
)  # fmt: skip
