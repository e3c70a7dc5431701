"""Measurements, each a module that `splatfleet bench` calls; figures come with the machine they were taken on."""
