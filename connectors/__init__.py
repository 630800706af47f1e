"""Where data comes from and goes to; the interfaces are in `penstock.runtime.connector`."""
