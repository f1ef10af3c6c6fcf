"""The long kill and load tests: `make chaos`."""
