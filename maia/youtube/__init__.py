"""The YouTube Data API v3: an asynchronous client, its typed results, and facts about the API."""
