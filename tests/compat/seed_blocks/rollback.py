opt = RLOptimizer(agent=agent, pipeline=pipeline, rollback_on_degradation=True)
