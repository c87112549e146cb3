"""Shared cycle machinery, in layers: outcomes, claims and paid calls.

`outcome` says how a cycle ended, `reasons` why an item was skipped. `cycle` runs a cycle of any agent and
records its event. `claims` adds items that are claimed and released, `paid` calls that the quota ledger pays
for. An agent derives from the layer it needs. `agent` runs its cycles in sequence, in a Prefect flow or
directly. `snapshot_chains` keeps snapshots in the vault.
"""
