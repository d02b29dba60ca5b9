"""From a request to a replica: heads by name, routes, replicas that refuse or die."""
