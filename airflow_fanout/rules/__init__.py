"""What is decided: names, wording, records, instances, outcomes, policy, capacity."""
