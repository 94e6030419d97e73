"""What installs flipwatch's services."""
