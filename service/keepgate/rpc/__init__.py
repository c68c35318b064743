"""gRPC at the edge: conversion, status codes, interceptors, servicers."""
