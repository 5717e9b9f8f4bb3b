"""Clients of the control socket over one core without input and output."""
