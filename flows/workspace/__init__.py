"""Interface to DVC: read its graph, reproduce a stage, and edit its lock file."""
