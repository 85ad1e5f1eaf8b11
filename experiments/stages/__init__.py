"""The stages of a run: functions that do nothing if a stage is finished, and resume it if not."""
