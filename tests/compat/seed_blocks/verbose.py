opt = RLOptimizer(agent=agent, pipeline=pipeline, verbose=True)
