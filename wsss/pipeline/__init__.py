"""The Apache Beam pipeline that writes pseudo labels."""
