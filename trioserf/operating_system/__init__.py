"""What differs between Linux, macOS and Windows (see operating_system/README.md).

No other room asks for the platform, or imports modules that one of these systems lacks.
"""
