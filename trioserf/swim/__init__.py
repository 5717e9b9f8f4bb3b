"""Membership as plain objects: SWIM and Lifeguard, without sockets, clocks and tasks."""
