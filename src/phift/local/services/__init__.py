"""Who answers where: the services of Azure that a local workspace has."""
