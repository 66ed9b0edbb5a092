"""The record of a picture, and the ways of writing it down."""
