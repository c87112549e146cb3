"""The hunter: the agent that finds videos for the topics in the search queue."""
