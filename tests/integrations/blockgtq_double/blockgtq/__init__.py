"""What integrations/blockgtq/replay.py touches of the published Block-GTQ code, in as few lines: names, signatures and
what they leave on their objects, as at its commit 3fe14e7. It is no implementation of the method."""
