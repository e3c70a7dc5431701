"""KEDA's interface to a scaler outside it: the proto file and what grpcio-tools makes of it."""
