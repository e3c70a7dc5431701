"""The HTTP front of the renderer pods: counts demand, holds requests, routes by scene."""
