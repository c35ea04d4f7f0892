"""The explanation methods, one file each; discovery imports every module below this package."""
