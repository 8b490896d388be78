"""Parts of a run in processes of their own, beside its actors: shards of the replay, learners, parameter servers."""
