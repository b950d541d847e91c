"""What every test file shares."""

import rawquic


def pytest_report_header() -> str:
    info = rawquic.backend_info()
    return "rawquic: " + ", ".join(f"{key} {value}" for key, value in info.items())
