"""Bits where they matter: how many each layer gets, by measures and exact allocation, or by a learned generator."""
