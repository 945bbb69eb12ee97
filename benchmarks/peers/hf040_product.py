"""hessianfree 0.4.0: time G v of the network of row A1. Answers each line with the median of three products."""

import json
import statistics
import sys
import time

import numpy as np

import hessianfree as hf

rng = np.random.RandomState(0)
layers = [hf.nl.Linear(), *[hf.nl.ReLU() for _ in range(4)], hf.nl.Softmax()]
net = hf.FFNet([784, 1024, 512, 256, 32, 10], layers=layers, use_GPU=False, rng=rng)
net.optimizer = hf.opt.HessianFree()
inputs = rng.rand(7500, 784).astype(np.float32)
targets = np.eye(10, dtype=np.float32)[rng.randint(0, 10, 7500)]
net.cache_minibatch(inputs, targets)
v = rng.randn(net.W.size).astype(np.float32)
net.calc_G(v)

for _ in sys.stdin:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        net.calc_G(v)
        times.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(times)}), flush=True)
