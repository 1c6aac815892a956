"""The demonstration: a real node, a small archive and real studies on one machine; `command` is the way in."""
