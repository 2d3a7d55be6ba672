"""Programs that measure speed; `make bench` runs them."""
