"""What a run lets others see while it goes on: log lines (text or JSON), progress lines, metrics for Prometheus."""
