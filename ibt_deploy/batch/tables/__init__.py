"""Stays from tables of any size: survey the files, sort them into a store on disk, read stays from it."""
