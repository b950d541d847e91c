"""Types of the compiled extension; a test holds this file against the module."""
