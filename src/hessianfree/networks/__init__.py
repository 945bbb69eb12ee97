"""FFNet and RNNet: the interface of 2016 over everything below."""
