"""IP-Adapter and its descendants."""
