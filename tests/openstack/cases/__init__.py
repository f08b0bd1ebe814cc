"""Cases of the OpenStack lab: see registry.py."""
