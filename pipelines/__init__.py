"""From image tags to the pixels behind them: see `wsss.transforms`."""
