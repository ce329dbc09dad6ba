"""Quality measures of a calibrated scan."""
